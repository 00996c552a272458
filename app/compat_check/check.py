"""Try the calls and judge the answers: for each row, the worst outcome of all calls that try it."""

import re
from collections.abc import AsyncIterator, Callable, Iterable
from dataclasses import dataclass, field

from cutout.app.compat_check.answers import Answer, Check
from cutout.app.compat_check.calls import Call, Refusal, refusal_of, send
from cutout.app.compat_check.probes import Probe, probes_of
from cutout.app.compat_check.table import Api, Row, Verdict, row_of, rows_of
from cutout.app.verify.client import API, Client, CreditsShape, Failed, PricingShape
from cutout.inference.tiers import SOLD

# A user without credits or with a wrong key would only see this in every row.
STOPPING = {401, 402, 403}
UNKNOWN = "is no field of that API; it is passed over"


@dataclass(frozen=True)
class Finding:
    """The outcome of a row, and what was seen. The row of a field that the API does not have is made up."""

    row: Row
    verdict: Verdict
    detail: str = ""

    @property
    def failed(self) -> bool:
        """Whether an integration is worse off than the table says."""
        return self.verdict.worse_than(self.row.expected)


@dataclass(frozen=True)
class Costs:
    """The price of a check in credits, as the service's price list has it, and the balance that pays it."""

    removals: int
    least: int
    most: int
    balance: int

    def require(self) -> None:
        """Check that the balance covers the removals at the cheapest tier.

        Raises:
            Failed: it does not.

        """
        if self.balance < self.least:
            raise Failed(
                f"{self} Grant some (cutout credits grant USER {self.least - self.balance}), or make only the calls that"
                " cost nothing: --free."
            )

    def __str__(self) -> str:
        if not self.removals:
            return "No removals, no credits."
        price = f"{self.least}" if self.least == self.most else f"{self.least} to {self.most}"
        count = "One removal" if self.removals == 1 else f"Up to {self.removals} removals"
        return f"{count} for {price} credits of {self.balance:,}; errors cost nothing."


@dataclass
class Outcome:
    """What came of the user's own call: a finding for each field, and the result in words; None if there is none."""

    findings: list[Finding] = field(default_factory=list)
    result: str | None = None
    refusal: Refusal | None = None


async def costs_of(client: Client, removals: int) -> Costs:
    """Ask for the price of this many removals, of the cheapest and the dearest tier, and for the balance.

    Raises:
        Failed: the service does not answer.

    """
    pricing = await client.read(PricingShape, "GET", f"{API}/pricing", as_user=False)
    prices = [told.credits for tier, told in pricing.tiers.items() if tier in SOLD]
    credits = await client.read(CreditsShape, "GET", f"{API}/credits", params={"limit": 1})
    return Costs(removals, removals * min(prices), removals * max(prices), credits.balance)


def probes_for(
    apis: Iterable[Api], key: str | None, image_url: str | None, free: bool
) -> dict[Api, list[Probe]]:
    """Return the calls to make for each API; those that cost nothing if `free` is set."""
    made = {api: probes_of(api, key, image_url) for api in apis}
    return {api: [one for one in probes if not (free and one.charged)] for api, probes in made.items()}


async def check_api(
    client: Client, api: Api, probes: list[Probe], tell: Callable[[str], None] = lambda _: None
) -> AsyncIterator[Finding]:
    """Make the calls for an API; yield each row that was tried, in the order of the table.

    Raises:
        Failed: the service does not answer, or lets this user do nothing.

    """
    found: dict[str, Finding] = {}
    rows = {row.name: row for row in rows_of(api)}
    for turn, probe in enumerate(probes, 1):
        tell(f"{api}: call {turn} of {len(probes)}")
        async for finding in _try(client, probe, rows, tell):
            known = found.get(finding.row.name)
            if known is None or finding.verdict.worse_than(known.verdict):
                found[finding.row.name] = finding
    for name in rows:
        if name in found:
            yield found[name]


async def try_own(client: Client, call: Call, tell: Callable[[str], None] = lambda _: None) -> Outcome:
    """Make the user's own call; where a field is refused, make it again without that field.

    Raises:
        Failed: the service does not answer, or lets this user do nothing.

    """
    outcome = Outcome()
    for name in call.names:
        row = row_of(call.api, name)
        if row is None:
            outcome.findings.append(Finding(Row(call.api, name, Verdict.IGNORED), Verdict.IGNORED, UNKNOWN))
        else:
            outcome.findings.append(Finding(row_for(row, name), row.expected, row.note))
    rest: Call | None = call
    while rest is not None:
        answer = Answer(await send(client, rest, tell))
        refusal = refusal_of(answer.response)
        if refusal is None:
            outcome.result = _told(answer)
            return outcome
        outcome.refusal = refusal
        blamed = _blamed(refusal, rest)
        outcome.findings = [
            Finding(one.row, Verdict.REFUSED, str(refusal)) if one.row.name in blamed else one
            for one in outcome.findings
        ]
        rest = rest.without(blamed) if blamed and not blamed & set(call.files) else None
    return outcome


def row_for(row: Row, name: str) -> Row:
    """Return the row as one about this field alone."""
    return Row(row.api, name, row.expected, row.note, (name,))


async def _try(
    client: Client, probe: Probe, rows: dict[str, Row], tell: Callable[[str], None]
) -> AsyncIterator[Finding]:
    left = dict(probe.checks)
    call: Call | None = probe.call
    while call is not None and left:
        response = await send(client, call, tell)
        refusal = refusal_of(response) if probe.charged else None
        if refusal is None:
            for name, check in left.items():
                yield _judged(rows[name], check, Answer(response))
            return
        if refusal.status in STOPPING and not probe.call.headers:
            raise Failed(f"The service refuses this user: {refusal}")
        blamed = _blamed(refusal, call)
        guilty = [name for name in left if blamed & set(rows[name].fields)] or list(left)
        for name in guilty:
            del left[name]
            yield Finding(rows[name], Verdict.REFUSED, str(refusal))
        call = call.without(blamed) if blamed else None


def _judged(row: Row, check: Check, answer: Answer) -> Finding:
    try:
        wrong = check(answer)
    except Failed as error:
        wrong = str(error)
    return Finding(row, row.expected) if wrong is None else Finding(row, Verdict.DIFFERENT, wrong)


def _blamed(refusal: Refusal, call: Call) -> set[str]:
    """Return the fields that an error is about, by its code or else by its text."""
    by_code = {name for name in call.names if refusal.code == f"invalid_{name}"}
    return by_code or {name for name in call.names if re.search(rf"\b{re.escape(name)}\b", refusal.text)}


def _told(answer: Answer) -> str:
    headers = answer.response.headers
    words = [f"{answer.response.status_code} {headers.get('Content-Type', '').split(';')[0]}"]
    try:
        words.append("{}×{} pixels".format(*answer.picture.size))
    except Failed:
        words.append(f"{len(answer.response.content):,} bytes")
    if charged := headers.get("X-Credits-Charged"):
        words.append(f"{charged} credits")
    return ", ".join(words)
