"""What is printed holds nothing that a terminal would act upon."""

from __future__ import annotations

from csp_al.printing import say, say_over


def test_escape_sequences_and_broken_letters_are_printed_as_marks(capsys):
    say("a\x1b[2Jb\r\x07\x9b1m\tc\nd \udc80 é")
    assert capsys.readouterr().out == "a\ufffd[2Jb\ufffd\ufffd\ufffd1m\tc\nd \ufffd é\n"
    say(RuntimeError("\x1b]0;title\x07"), err=True)
    assert "\x1b" not in capsys.readouterr().err


def test_line_that_is_written_over_holds_no_other_escape_than_ours(capsys):
    say_over("pool\x1b[2J: 1 of 2", last=True)
    assert capsys.readouterr().out.count("\x1b") == 1
