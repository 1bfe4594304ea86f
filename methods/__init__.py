"""The methods of the suite, one folder or file each; found through the entry-point group `bnnbench.methods`."""
