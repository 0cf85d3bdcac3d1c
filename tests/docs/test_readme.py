"""The README's code runs, and its commands have the form that .ci/run relies on."""

import re

import pytest
from places import ROOT

README = ROOT / "README.md"


def blocks(language):
    return re.findall(rf"^```{language}\n(.*?)^```$", README.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)


def test_python_blocks_run_in_order(capsys, tmp_path, monkeypatch):
    found = blocks("python")
    monkeypatch.chdir(tmp_path)  # one of them saves a network
    namespace = {}
    for number, block in enumerate(found, start=1):
        exec(compile(block, f"README.md, python block {number}", "exec"), namespace)
    assert len(found) == 12
    assert "right: largest relative error" in capsys.readouterr().out


@pytest.mark.parametrize(
    "page", ["README.md", "CONTRIBUTING.md", "ARCHITECTURE.md", "CHANGELOG.md", "benchmarks/README.md"]
)
def test_links_lead_somewhere(page):
    text = (ROOT / page).read_text(encoding="utf-8")
    links = re.findall(r"\]\((?!https?://)([^)#]+)[^)]*\)", re.sub(r"^```.*?^```$", "", text, flags=re.M | re.S))
    assert [link for link in links if not (ROOT / page).parent.joinpath(link).exists()] == []
    assert links or page != "README.md"


def test_two_commands_of_one_line_each():
    commands = blocks("bash")
    assert len(commands) == 2
    for command, last in zip(commands, ("-m backprop demo --plot demo.png", "/bin/pytest"), strict=True):
        assert command.count("\n") == 1
        assert command.startswith("python3 -m venv .venv")
        assert command.rstrip("\n").endswith(last)
