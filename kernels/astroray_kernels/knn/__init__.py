"""The nearest vectors of many queries, proven: `reference` is the meaning, `_native` the speed."""
