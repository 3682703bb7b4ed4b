"""The recipe of the embedded pocket model: data, one trainer a part, evaluation by outside judges."""
