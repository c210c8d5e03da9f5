"""One file a noun. A noun's calls are built once; its two classes send them, waiting or awaiting."""
