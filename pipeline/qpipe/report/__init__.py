"""Pages and charts: what a run found, where a scheme loses accuracy, what a network is fed.

Other rooms may use:

- run_results: what a run measured, what it recommends, and the command that hands it over
- run_content, run_report: the report of a run as one HTML file
- chart_files, latex_table: its charts as pictures, its tables in LaTeX
- run_document: a run, and a comparison of two, as the objects that `--json` prints
- comparison_report, comparison_rows, junit: one run against another, as a page, text and XML
- diagnosis_page: a diagnosis as a page and as text
- samples_report, samples_page: what a network is fed, pictures and sounds included
- database_site: what `qpipe serve` shows beside the tables
- row_notes: the notes on rows as lines
- report_types: the shape of samples.json
"""
