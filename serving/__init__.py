"""Adapters and exported models behind an address: a REST server and a web page on `inference.Translator`."""
