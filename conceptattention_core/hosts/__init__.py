"""Where a model lives: each host brings its families and one file that knows its seams."""
