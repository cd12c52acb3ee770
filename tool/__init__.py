"""What every stage stands on; knows no network and no data set."""

VERSION = "0.1.0"
