"""Floor 1: one node, one file, one verb. Nodes speak to ports; they know no database and no graph."""
