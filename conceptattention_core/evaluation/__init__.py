"""The paper's evaluation: data sets, protocols, metrics, tables (arXiv 2502.04320, section 5)."""
