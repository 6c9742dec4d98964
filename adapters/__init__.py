"""How data and orders reach the outside. Parsing is pure; what talks to a network is thin.

importing        a file or a folder into a catalog, each file by the importer that knows it
fetch            months of the exchange's public archive into a catalog
freqtrade        candles and funding in feather         binance_archive  candles, flow and funding
coinmetrics      daily on-chain metrics, Etherscan too  indices          Fear & Greed, DVOL
news             headlines with and without scores      generic          anything, by a column map
synthetic        a made-up market with a known edge     replay           history as a live feed
sources          what a file is, by its content         checks           rules that name the line
options          what importers assume                  report           what an import did
tables           typed columns of table files
http, errors     one patient client; retry, skip, stop
"""
