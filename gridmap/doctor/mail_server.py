"""Probe: would the mails about failures be taken? By default none is sent."""

from __future__ import annotations

import smtplib
from collections.abc import Iterator

from gridmap.conf import Settings
from gridmap.doctor.exam import Exam
from gridmap.doctor.findings import Finding, Status, failed, ok, skipped

SILENCE = "set SMTP_SERVER to your site's mail server (host or host:port), or SEND_ERROR_MAIL=0"


def examine(exam: Exam) -> Iterator[Finding]:
    """Speaks with the mail server up to the recipient's name, and sends nothing."""
    settings = exam.settings
    if settings is None:
        yield skipped("mail", "the settings have to be valid first")
    elif exam.options.mail:
        yield send(settings)
    elif not settings.send_error_mail:
        yield skipped("mail", "SEND_ERROR_MAIL is off")
    elif exam.is_local:
        yield skipped("mail", "runs on this machine mail no failures")
    else:
        answer = converse(settings)
        if answer.status is Status.FAILED and not settings.smtp_server:  # a guess that was none
            exam.need("SEND_ERROR_MAIL", False)
        yield graded(answer, settings)


def graded(finding: Finding, settings: Settings) -> Finding:
    """Returns the finding as a warning where nobody has said which server to use.

    A mail that is not sent never breaks a run, and a guessed server is often none.
    """
    guessed = not settings.smtp_server
    if finding.status is Status.FAILED and guessed:
        told = f"{finding.found} (its name was guessed from this host's)"
        return finding._replace(status=Status.WARNING, found=told)
    return finding


def converse(settings: Settings) -> Finding:
    """Asks the server whether it would take a mail to the recipient."""
    from gridmap.report.addresses import guess_recipient, guess_server
    from gridmap.report.server import conversation

    server = settings.smtp_server or guess_server()
    recipient = settings.error_mail_recipient or guess_recipient()
    facts = {"server": server, "recipient": recipient}
    try:
        with conversation(settings) as talk:
            refusal = _refusal(talk.smtp, settings.error_mail_sender, recipient)
    except (OSError, smtplib.SMTPException) as error:
        return failed("mail", f"{server}: {_words(error)}", _change(error), **facts)
    if refusal:
        return failed(
            "mail",
            f"{server} refuses {refusal}",
            "set ERROR_MAIL_RECIPIENT and ERROR_MAIL_SENDER to addresses that it takes, or "
            "SEND_ERROR_MAIL=0",
            **facts,
        )
    how = f"encrypted ({talk.encryption})" if talk.encryption else "unencrypted"
    by = f" from {talk.user}, who could log in" if talk.user else ""
    told = f"{server} takes mails to {recipient}{by}, {how}; none was sent (--mail sends one)"
    return ok("mail", told, encryption=talk.encryption, user=talk.user, **facts)


def _refusal(smtp: smtplib.SMTP, sender: str, recipient: str) -> str:
    """Returns what the server refuses, with its words; "" when it takes both addresses."""
    for what, address, ask in (
        ("the sender", sender, smtp.mail),
        ("the recipient", recipient, smtp.rcpt),
    ):
        code, words = ask(address)
        if code not in (250, 251):
            return f"{what} {address}: {code} {words.decode(errors='replace')}"
    smtp.rset()
    return ""


def send(settings: Settings) -> Finding:
    """Sends a mail, as a run does."""
    from gridmap.report.addresses import guess_server
    from gridmap.report.messages import completion_message
    from gridmap.report.server import deliver

    server = settings.smtp_server or guess_server()
    try:
        message = completion_message("gridmap_doctor", settings)
        deliver(message, settings)
    except (OSError, smtplib.SMTPException, ValueError) as error:
        return failed("mail", f"{server}: {_words(error)}", _change(error), server=server)
    told = f"{server} took a mail to {message['To']}; see whether it arrives"
    return ok("mail", told, server=server, recipient=str(message["To"]))


def _change(error: Exception) -> str:
    """Returns what to do: what the error says, where it knows better."""
    return str(getattr(error, "change", SILENCE))


def _words(error: Exception) -> str:
    if isinstance(error, smtplib.SMTPRecipientsRefused):
        ((address, (code, words)), *_) = error.recipients.items()
        return f"it refuses the recipient {address}: {code} {words.decode(errors='replace')}"
    if isinstance(error, smtplib.SMTPResponseException):
        said = error.smtp_error
        text = said.decode(errors="replace") if isinstance(said, bytes) else said
        return f"it answers {error.smtp_code} {text}"
    return str(error)
