"""Model artefacts and the code that opens, trains and checks them."""
