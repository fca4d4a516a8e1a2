"""GENERATED customers' tickets for the desks of a made-up shop: the text classification of the demo, from a seed.

    prompt  'Hello, still open is "the lamp was due on Monday and has not come.", while "how do I send back the tent? It
            does not fit" has been dealt with. Thanks, Mia'                                 answer  "delivery"

A ticket has one open matter, which decides the desk, in one of its desk's wordings, with names, things and dates filled
in. Seven in ten also quote a matter of another desk that is settled. So the words of two desks stand in one ticket, and
which of them is meant is a question of how it is put: a linear probe on mean-pooled features reads off the words, and
knows their order only as far as the encoder does. Rules where desks meet: what was paid for a plan that had been ended
belongs to cancellation, what the customer never did to security, what has not been bought yet to sales, a page or a
button that fails to technical.

Every desk has as many tickets of a split as every other, or one more. The wordings of `test` occur in training too,
but no ticket does, greeting and closing aside, in two splits.

Departures: none from a paper; the task is the project's own, and its data's hash (see tests/tasks/test_texts.py) was
fixed before any tuning.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from string import Formatter
from typing import Annotated, ClassVar

from pydantic import Field

from boostlib.common.settings import Seed
from boostlib.common.stable import philox
from boostlib.tasks.base import Example, PairCosts, TextLabelTask

MOST = 20_000  # tickets of a split
Size = Annotated[
    int, Field(ge=8, le=MOST, strict=True, description=f"a whole number of at least 8 (and at most {MOST:,})")
]

MATTERS = {
    "account": (
        "I have not been able to sign in since {day}, the mail for a new password never comes",
        "please put the address {place} into my profile, I have moved",
        "I have two profiles with you by accident, can they become one?",
        "my surname has changed, and I cannot find where to correct it",
        "please erase everything that you store about me",
        "the code that you send to my old number is needed to sign in, and that number is gone",
        "my mail address was misspelt when I registered, what can I do?",
        "I would like to read my messages from you in another language",
    ),
    "billing": (
        "you took {amount} twice for one {thing}",
        "the invoice for {month} names a {thing} that is not the one I got, I need it corrected",
        "why has the {plan} plan become {amount} dearer since {month}?",
        "our accountant needs the company's name on the invoice for {month}",
        "the code {code} was accepted for the {thing}, and still the full price was taken",
        "I paid for the {thing} by transfer on {day}, and you still send reminders",
        "please let me pay for the {plan} plan by the year and not by the month",
        "the sum on my card, {amount}, does not match the order of the {thing}",
    ),
    "cancellation": (
        "I want to stop the {plan} plan before {month}",
        "the {thing} was ordered by mistake an hour ago, please do not send it",
        "{amount} was taken for {month}, although I had ended the {plan} plan before",
        "please make sure that nothing renews by itself in {month}",
        "I no longer need the {thing} that was to come on {day}, take it off the order",
        "the trial of the {plan} plan was enough for me, I will not go on",
        "we are closing the office in {place}, so the {plan} plan has to end",
        "how many days before {month} must I tell you that I leave?",
    ),
    "delivery": (
        "the {thing} was due on {day} and has not come",
        "the courier says that the {thing} was handed over, and nobody here has it",
        "can the {thing} go to a neighbour in {place}? It is on its way already",
        "half of the parcel came, the {thing} was not in it",
        "the tracking of the {thing} has said the same since {day}",
        "the box with the {thing} was left in the rain and is soaked",
        "you sent a {thing}, I had ordered something else",
        "nobody rang on {day}, and now the {thing} is on its way back to you",
    ),
    "refunds": (
        "I sent the {thing} back on {day}, where is my money?",
        "the {thing} broke on {day}, I do not want another one but the {amount}",
        "you paid back {amount} for the {thing}, and it cost more than that",
        "how do I send back the {thing}? It does not fit",
        "the money for the {thing} went to a card that I no longer have",
        "the {thing} is not as described, I would like to return it",
        "your shop took the {thing} back in {month}, and my account shows nothing of it",
        "is the way back paid by you if the {thing} came damaged and I do not keep it?",
    ),
    "sales": (
        "does the {thing} work with a {device}? I have not ordered yet",
        "what would the {plan} plan cost for {number} people?",
        "when will the {thing} be there again? I would buy two",
        "do you send to {place}, and how much is it? Then I would order a {thing}",
        "could I send the {thing} back if it did not fit? I am still choosing",
        "is there a price for schools for {number} of the {thing}s?",
        "what does the {plan} plan have that the free one has not?",
        "may I pay the {thing} in parts, before I decide?",
    ),
    "security": (
        "there is an order of a {thing} that I never placed",
        "{amount} went from my card to you, and I have never bought anything here",
        "someone in {place} has signed in as me on {day}",
        "a mail in your name asks me for the number of my card, is it from you?",
        "the address of my parcel was changed to {place}, and not by me",
        "I get codes to sign in that I did not ask for",
        "a caller said he was from your refunds desk and wanted my password",
        "the {plan} plan was started with my data by a stranger",
    ),
    "technical": (
        "the page to pay stays white on my {device}",
        "the button to return the {thing} does nothing",
        "your app closes whenever I open the map of the parcel",
        "the form for a new password says error {number} on my {device}",
        "pictures of the {thing} do not load, not even on my {device}",
        "the invoice for {month} opens as an empty file",
        "the switch that ends the {plan} plan jumps back by itself",
        "the search finds no {thing} on my {device}, though the link to it works",
    ),
}
THREADS = (  # a matter that is open, beside another desk's that is settled
    'my ticket of {day}, "{settled}", is solved. Now {matter}',
    'about "{settled}" you have helped me. What is left: {matter}',
    'I wrote "{matter}" and "{settled}", and only the second was answered.',
    '"{settled}" was answered, "{matter}" was not.',
    'still open is "{matter}", while "{settled}" has been dealt with.',
    'please close "{settled}" and look at this instead: {matter}',
    '{matter} This is new, "{settled}" was last week and is done.',
    '{matter} You can forget that I wrote "{settled}".',
    'you answered me as if I had asked "{settled}", but what I wrote was "{matter}"',
    'I no longer ask "{settled}", I ask "{matter}"',
)
OPENERS = ("", "", "Hello, ", "Hi there, ", "Good morning, ", "Dear team, ", "To whom it may concern: ")
CLOSERS = ("", "", " Thanks, {name}", " Please help.", " Best wishes, {name}", " I look forward to your answer.")
FILLERS = {
    "amount": ("$12", "$19.90", "$35", "$48", "$70", "$129", "$240"),
    "code": ("SPRING", "WELCOME10", "FRIENDS", "HELLO5"),
    "day": ("Monday", "Tuesday", "Thursday", "Friday", "Saturday", "the 3rd", "the 12th", "the 28th"),
    "device": ("phone", "tablet", "laptop", "old computer", "television"),
    "month": ("January", "March", "May", "June", "August", "October", "December"),
    "name": ("Ana", "Ben", "Clara", "David", "Emma", "Hugo", "Mia", "Nora", "Omar"),
    "number": ("12", "30", "45", "110", "404", "500"),
    "place": ("Leeds", "Porto", "Oslo", "Graz", "Lyon", "Tartu"),
    "plan": ("Basic", "Family", "Plus", "Studio", "Team"),
    "thing": ("lamp", "kettle", "backpack", "keyboard", "chair", "headset", "jacket", "printer", "tent", "watch"),
}
TWO = 0.7  # share of tickets with a settled matter beside the open one
# a fraud on the wrong desk is dear, and so is a customer who leaves and is not heard
COSTS = {
    "security": {desk: 8 for desk in MATTERS if desk != "security"},
    "cancellation": {"billing": 2, "sales": 4},
    "refunds": {"sales": 3},
}


@dataclass(frozen=True, kw_only=True)
class Tickets(TextLabelTask):
    """`train`, `validation` and `test` are the sizes of the splits. Raises BoostError for a setting out of range."""

    name: ClassVar[str] = "tickets"
    splits: ClassVar[tuple[str, ...]] = ("train", "validation", "test")
    classes: ClassVar[tuple[str, ...]] = tuple(MATTERS)
    train: Size = 2400
    validation: Size = 400
    test: Size = 800
    seed: Seed = 0
    pair_costs: PairCosts = field(default_factory=lambda: COSTS)

    def __post_init__(self) -> None:
        super().__post_init__()
        self.check_costs()

    def load_split(self, name: str) -> list[Example]:
        """Made in the order test, validation, train: another size of `train` leaves the other two as they are."""
        stock = self._tickets()
        for split in ("test", "validation", "train"):
            dealt = [next(stock) for _ in range(getattr(self, split))]
            if split == name:
                break
        return [Example(f"{name}-{i}", text, desk, kind=desk) for i, (desk, text) in enumerate(dealt)]

    def _tickets(self) -> Iterator[tuple[str, str]]:
        """(desk, text), the desks in turn, without end, no matter with its mention twice."""
        random, seen, turn = philox(self.name, self.seed), set(), 0

        def pick(options) -> str:
            return options[random.integers(len(options))]

        def filled(template: str, **more: str) -> str:
            names = [name for _, name, _, _ in Formatter().parse(template) if name in FILLERS]
            return template.format(**more, **{name: pick(FILLERS[name]) for name in names})

        while True:
            desk = self.classes[turn % len(self.classes)]
            text = ended(filled(pick(MATTERS[desk])))
            if random.random() < TWO:
                other = pick([name for name in self.classes if name != desk])
                text = filled(pick(THREADS), matter=text, settled=filled(pick(MATTERS[other])))
            opener, closer = pick(OPENERS), filled(pick(CLOSERS))
            if text not in seen:
                seen.add(text)
                turn += 1
                yield desk, capital(f"{opener}{text}{closer}")


def ended(text: str) -> str:
    """`text` with a point where it has no question mark."""
    return text if text.endswith("?") else f"{text}."


def capital(text: str) -> str:
    """`text` with a capital letter where it begins."""
    return text[0].upper() + text[1:]
