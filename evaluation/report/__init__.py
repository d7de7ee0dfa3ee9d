"""Results folders as a report: one HTML page that needs nothing else, and Markdown for a README."""

from codegen_edge.evaluation.report.comparison import Comparison
from codegen_edge.evaluation.report.results import Run
from codegen_edge.evaluation.report.writing import Report, write_report

__all__ = ["Comparison", "Report", "Run", "write_report"]
