"""Its place makes pytest put this folder on the path: modules here are shared by all kinds of tests."""
