"""Documents as passages: files and folders of text, Markdown, PDF, Word, HTML, CSV, Parquet and JSON."""
