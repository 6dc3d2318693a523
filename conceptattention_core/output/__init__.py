"""What is written out or looked at: drawings, files, layers, the explorer's page."""
