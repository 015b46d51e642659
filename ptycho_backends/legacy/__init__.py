"""The one door to legacy names: `params.cfg`, the bridge that fills it, `RawData`."""
