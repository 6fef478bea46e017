"""Types: mypy infers what the documentation promises, and refuses what can't work."""

from __future__ import annotations

from pathlib import Path

from mypy import api as mypy

HERE = Path(__file__).parent
# What Streamlit's own types are takes mypy a minute, and says nothing of ours.
CONFIGURATION = """
[mypy]
strict = true
enable_error_code = ignore-without-code

[mypy-streamlit.*,streamlit_cookies_controller.*]
follow_imports = skip
ignore_missing_imports = true
"""


def test_mypy_strict_agrees(tmp_path: Path) -> None:
    """With what blocks yield, loads return and decorators leave; and with each line that it must refuse."""
    configuration = tmp_path / "mypy.ini"
    configuration.write_text(CONFIGURATION)
    options = [f"--config-file={configuration}", f"--cache-dir={tmp_path / 'cache'}", "--no-error-summary"]
    # Together: most of the time goes into the library's own modules.
    report, trouble, status = mypy.run([*options, *map(str, sorted((HERE / "typing").glob("*.py")))])
    assert (report, trouble, status) == ("", "", 0)
