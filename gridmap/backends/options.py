"""What jobs ask for, in each scheduler's words: one table. Pure, but for what `words_of` reads.

A scheduler's words are a list of templates (`gridmap.backends.templates`); what these can say is in
`gridmap.backends.asked`.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

from msgspec import Struct

from gridmap.backends.asked import TOPIC_OF, TOPICS, Values, asked
from gridmap.backends.templates import fill, names
from gridmap.core.spec import Resources

# Blanks, quotes and shell characters would end or change a word for who reads it word by word.
PLAIN = r"[A-Za-z0-9_.+@*?!|&()\[\]:=,/%^~][A-Za-z0-9_.+@*?!|&()\[\]:=,/%^~-]*"

HOST = r"[A-Za-z0-9_][A-Za-z0-9_.-]*"
"""One host.  "n[1-9]", "a,b", "!a" or "a+2" are several, others, or a wish to some scheduler."""

_PLAIN_MEANS = "options cannot hold blanks, quotes or shell characters, nor start with '-'"

_ONE_RESOURCE = ("h_vmem", "mem_free", "os_distribution", "os_minor")
"""Values that follow `-l NAME=`, where a comma begins another resource."""

_CLOSE = {"(": ")", "[": "]", "{": "}"}

_REPEATED = {"request": "requests", "feature": "features"}

_INSTEAD = {
    "os_distribution": "ask for features of nodes, with Resources(features=...)",
    "os_minor": "ask for features of nodes, with Resources(features=...)",
    "par_env": "num_slots are processors of one node there",
}


class Words(Struct, frozen=True):
    """How a scheduler is asked for resources.

    :param name: what people call it
    :param options: templates, in the order in which it is told them
    :param ignored: topics that it cannot be asked for and that jobs can do without: a warning
    :param reserved: options that GridMap says itself; "-o*" stands for all that begin with -o,
        "-W block" for `block` in the list of names and values that -W takes
    :param flags: letters of options without a value.  Where there are some, letters are read as by
        getopt(3): several may share a word, and a value may follow in the same word
    :param longer: options that begin as a reserved letter does, and are others
    :param otherwise: topics that its backend sees to in another way
    :param values: what names and amounts may be made of, a regular expression
    :param host_names, queue_names, each_feature: the same for these; "": as `values`
    :param features_are: what a feature is, for the error
    :param requests: the same for each of the historic `resources=[...]`
    :param requests_are: what each of these is, for the error
    :param has_all_q: "all.q", the queue by default, is the name of a queue
    :param by_line: options are lines of a description, which are not cut into words
    """

    name: str
    options: tuple[str, ...]
    ignored: tuple[str, ...] = ()
    reserved: tuple[str, ...] = ()
    flags: str = ""
    longer: tuple[str, ...] = ()
    otherwise: tuple[str, ...] = ("interpreting_shell", "validation_level")
    values: str = PLAIN
    host_names: str = HOST
    queue_names: str = ""
    each_feature: str = ""
    features_are: str = ""
    requests: str = PLAIN
    requests_are: str = ""
    has_all_q: bool = False
    by_line: bool = False


GRID_ENGINE = Words(
    "Grid Engine",
    (
        "-S {interpreting_shell}",
        "-l mem_free={mem_free}",
        "-pe {par_env} {slots}",
        "-q {queue}",
        "-l h={hosts:|}",
        "-P {project}",
        "-w {validation_level}",
        "-l os_distribution={os_distribution}",
        "-l os_minor={os_minor}",
        "-l gpu={gpus}",
        "-l h_vmem={h_vmem}",
        "-l h_rt={h_rt}",
        "-l {request}",
        "-l {feature}",
        "{native}",
    ),
    reserved=(
        *("-@", "-b", "-clear", "-cwd", "-e", "-help", "-i", "-j", "-N", "-now", "-o", "-shell"),
        *("-sync", "-t", "-terse", "-verify", "-wd"),
    ),
    otherwise=(),
    host_names=r"[A-Za-z0-9_@*?\[][A-Za-z0-9_.@*?\[\]-]*",  # it has patterns for them
    each_feature=f"(?!.*,){PLAIN}",
    features_are='one resource, such as "arch=lx-amd64"',
    has_all_q=True,
)
"""Source: qsub(1), sge_types(1)"""

SLURM = Words(
    "Slurm",
    (
        "--cpus-per-task={slots}",
        "--mem={memory_mb}M",
        "--time={walltime_hms}",
        "--partition={queue}",
        "--account={project}",
        "--gpus-per-node={gpus}",
        "--constraint={features:&}",
        "{request}",
        "{native}",
    ),
    reserved=(
        *("-a", "-D", "-e", "-h", "-J", "-M", "-N", "-o", "-Q", "-V", "-W", "-x", ":"),
        *("--array", "--chdir", "--clusters", "--error", "--exclude", "--export", "--export-file"),
        *(
            "--help",
            "--job-name",
            "--no-requeue",
            "--nodes",
            "--open-mode",
            "--output",
            "--parsable",
        ),
        *("--quiet", "--requeue", "--signal", "--test-only", "--usage", "--version", "--wait"),
        "--wrap",
    ),
    flags="hHOQsvVW",
    # hosts: it can leave out all others
    otherwise=("interpreting_shell", "validation_level", "hosts"),
    requests=r"--[a-z][a-z-]*(=[^\n\0]*)?",
    requests_are='an option of sbatch, such as "--constraint=fast"',
)
"""Source: sbatch(1)"""

_TABLES = {"grid_engine": GRID_ENGINE, "slurm": SLURM}
_FOLDER = Path(__file__).with_name("schedulers")


@lru_cache(maxsize=32)
def words_of(name: str) -> Words:
    """Returns the words of a scheduler: "grid_engine", "slurm", or a shipped description's name.

    :raises ValueError: there is none of that name
    """
    if name in _TABLES:
        return _TABLES[name]
    described = sorted(path.stem for path in _FOLDER.glob("*.toml"))
    if name not in described:
        known = ", ".join(sorted([*_TABLES, *described]))
        raise ValueError(f"no scheduler is called {name!r}; there are: {known}")
    from gridmap._toml import load  # takes a while, and is seldom needed

    path = _FOLDER / f"{name}.toml"
    return words_from(load(path), str(path))


def words_from(table: Mapping[str, Any], where: str) -> Words:
    """Returns the words in the description of a scheduler, which may hold more than these.

    :param where: the file that it was read from, for errors
    :raises ValueError: something in it is missing, of the wrong kind, or no template
    """
    given: dict[str, Any] = {}
    for name in (name for name in Words.__struct_fields__ if name in table):
        value = table[name]
        if name in ("options", "ignored", "reserved", "longer", "otherwise"):
            if not isinstance(value, list) or not all(isinstance(one, str) for one in value):
                raise ValueError(f"{where}: {name} is {value!r}; it must be a list of texts")
            given[name] = tuple(value)
        elif not isinstance(value, bool if name in ("has_all_q", "by_line") else str):
            kind = "a text" if name not in ("has_all_q", "by_line") else "true or false"
            raise ValueError(f"{where}: {name} is {value!r}; it must be {kind}")
        else:
            given[name] = value
    for name in ("name", "options"):
        if not given.get(name):
            raise ValueError(f"{where}: {name} is missing")
    words = Words(**given)
    try:
        check(words)
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from error
    return words


def check(words: Words) -> None:
    """Makes sure that words can be used.

    :raises ValueError: a template is none, or something is no topic, value or regular expression
    """
    for template in words.options:
        found = set(names(_template(words, template)))
        for name in found - TOPIC_OF.keys():
            known = ", ".join(sorted(TOPIC_OF))
            raise ValueError(f"{template!r} has {{{name}}}; there are: {known}")
        if "native" in found and template != "{native}":
            raise ValueError(f"{template!r}: {{native}} stands alone, for options as they are")
        if len(found & _REPEATED.keys()) > 1:
            raise ValueError(f"{template!r} would be repeated for two things")
    for topic in (*words.ignored, *words.otherwise):
        if topic not in TOPICS:
            raise ValueError(f"{topic!r} is nothing to ask for; there are: {', '.join(TOPICS)}")
    patterns = (words.values, words.host_names, words.queue_names, words.each_feature)
    for pattern in (*patterns, words.requests):
        try:
            re.compile(pattern)
        except re.error as error:
            raise ValueError(f"{pattern!r} is no regular expression: {error}") from error


def render(words: Words, resources: Resources, use_mem_free: bool = False) -> list[str]:
    """Returns the options that ask a scheduler for these resources, word by word.

    :param use_mem_free: `mem_free` counts: the cluster knows it, or it stands for memory
    :raises ValueError: it cannot be asked for something, or a value would be taken for something
        else; the message names it
    """
    options, said = _options(words, resources, use_mem_free)
    done = {*said, *words.otherwise, *words.ignored}
    left = {topic: text for topic, text in asked(resources, use_mem_free) if topic not in done}
    if left:
        instead = "".join(f"; {_INSTEAD[topic]}" for topic in left if topic in _INSTEAD)
        raise ValueError(f"{words.name} cannot be asked for {', '.join(left.values())}{instead}")
    return options


def left_out(words: Words, resources: Resources, use_mem_free: bool = False) -> list[str]:
    """Returns what is asked for and left out, since this scheduler has no words for it.

    :raises ValueError: a value would be taken for something else
    """
    said = _options(words, resources, use_mem_free)[1]
    topics = asked(resources, use_mem_free)
    return [text for topic, text in topics if topic in words.ignored and topic not in said]


def native_specification(
    resources: Resources, *, use_mem_free: bool = False, shell: bool = True
) -> str:
    """Returns the options that ask Grid Engine for these resources, as one text.

    :param use_mem_free: the cluster knows the resource `mem_free`
    :param shell: a shell on the node starts the command (and reads its words once more)
    :raises ValueError: as `render`, or an option that DRMAA would cut
    """
    options = render(GRID_ENGINE, resources, use_mem_free)
    for option in options:
        if not re.fullmatch(f"-?{PLAIN}", option):
            raise ValueError(f"native has {option!r}; Grid Engine's {_PLAIN_MEANS}")
    return " ".join([f"-shell {'yes' if shell else 'no'} -b yes", *options])


def _options(words: Words, resources: Resources, use_mem_free: bool) -> tuple[list[str], set[str]]:
    """Returns the options and the topics that they say."""

    def checked(what: str, value: str) -> str:
        return _checked(words, what, value)

    values = Values(resources, checked, use_mem_free, words.has_all_q)
    options: list[str] = []
    said: set[str] = set()
    for template in words.options:
        _refuse_mixed(template, resources.features)
        if template == "{native}":
            options += _native(words, resources.native)
            said.add("native")
            continue
        new, used = _filled(_template(words, template), values)
        options += new
        said |= {TOPIC_OF[name] for name in used}
    return options, said


def _template(words: Words, option: str) -> str:
    """Returns an option as what is cut into words, or is one line."""
    return shlex.quote(option) if words.by_line else option


def _filled(template: str, values: Values) -> tuple[list[str], set[str]]:
    """Fills in a template, anew for each value of one that repeats it."""
    repeated = next((name for name in names(template) if name in _REPEATED), "")
    if not repeated:
        return fill(template, values)
    options: list[str] = []
    used: set[str] = set()
    for one in values(_REPEATED[repeated]):

        def with_one(name: str, one: str = one) -> Sequence[str]:
            return [one] if name == repeated else values(name)

        new, now_used = fill(template, with_one)
        options += new
        used |= now_used
    return options, used


def _checked(words: Words, what: str, value: str) -> str:
    if what == "resources":
        if not re.fullmatch(words.requests, value):
            each = f"; on {words.name} each is {words.requests_are}" if words.requests_are else ""
            means = each or f"; {words.name}'s {_PLAIN_MEANS}"
            raise ValueError(f"{what} has {value!r}{means}")
        if words.by_line and value.rstrip().endswith("\\"):
            raise ValueError(f"{what} has {value!r}; it is one line")
        _refuse_reserved(words, what, value)
        if any("{requests:" in option for option in words.options):
            _refuse_open(what, value)
        return value
    own, means = {
        "hosts (white_list)": (words.host_names, "each is the name of one host"),
        "queue": (words.queue_names, "it is the name of a queue"),
        "features": (words.each_feature, words.features_are and f"each is {words.features_are}"),
    }.get(what, ("", ""))
    if not re.fullmatch(words.values if what != "features" or not own else own, value):
        told = means if own and what == "features" else f"{words.name}'s {_PLAIN_MEANS}"
        raise ValueError(f"{what} is {value!r}; {told or _PLAIN_MEANS}")
    if own and not re.fullmatch(own, value):
        raise ValueError(f"{what} is {value!r}; on {words.name} {means}")
    if what in _ONE_RESOURCE and re.search("[,=]", value):
        raise ValueError(f"{what} is {value!r}; ',' and '=' would make it something else")
    if what == "features":
        _refuse_open(what, value)
    return value


def _refuse_open(what: str, value: str) -> None:
    """Refuses an expression that would end, or swallow, the one that it is put into."""
    open_now: list[str] = []
    for sign in value:
        quoted = open_now[-1:] in (["'"], ['"'])
        if open_now and sign == open_now[-1]:
            open_now.pop()
        elif not quoted and sign in "([{'\"":
            open_now.append(_CLOSE.get(sign, sign))
        elif not quoted and sign in ")]}":
            open_now.append("nothing")
            break
    if open_now:
        raise ValueError(f"{what} has {value!r}; a bracket or quote in it is not closed, or opened")


def _refuse_mixed(template: str, features: Sequence[str]) -> None:
    """Refuses "a|b" beside another feature where the two are joined by "and", which binds more."""
    if len(features) < 2 or not re.search(r"\{features:&+\}", template):
        return
    for feature in features:
        outside = re.sub(r"\([^()]*\)|\[[^\[\]]*\]", "", feature)
        if re.search("[|,]", outside):
            raise ValueError(f'features has {feature!r} and others; say "({feature})"')


def native_words(resources: Resources) -> list[str]:
    """Returns native options, and each of the historic list, that a command takes as words."""
    return [*resources.extra, *(one for text in resources.native for one in shlex.split(text))]


def _native(words: Words, native: Sequence[str]) -> list[str]:
    """Returns native options, each cut into words as a shell does, where words are meant."""
    found = list(native) if words.by_line else []
    for option in () if words.by_line else native:
        try:
            cut = shlex.split(option)
        except ValueError as error:
            raise ValueError(f"native has {option!r}: {error}") from error
        # a word that belongs to no option would be taken for the program to run
        if cut and (not cut[0].startswith("-") or {"-", "--"} & {*cut} or _program(words, cut)):
            raise ValueError(f"native has {option!r}; each begins with the name of an option")
        found += cut
    for at, word in enumerate(found):
        if re.search(r"[\n\0]|\\\s*$", word):
            raise ValueError(f"native has {word!r}; an option is one line")
        _refuse_reserved(words, "native", word, "".join(found[at + 1 : at + 2]))
    return found


def _program(words: Words, cut: Sequence[str]) -> bool:
    """Returns whether a word follows an option that has its value already, or takes none."""
    if not words.flags or words.longer:  # names of several letters look like letters and values
        return False
    for before, word in zip(cut, cut[1:], strict=False):
        last = [*_letters(words, before), ""][-2:][0]
        done = len(last) > 2 or last[1:] in words.flags if last else "=" in before
        if done and before.startswith("-") and not word.startswith("-"):
            return True
    return False


def _letters(words: Words, word: str) -> Iterator[str]:
    """Yields the options in one word, as getopt(3) reads it: -Hn4 are -Hn4 and -n4."""
    if not re.match("-[^-]", word):
        return
    for at, letter in enumerate(word[1:], 1):
        yield f"-{word[at:]}"
        if letter not in words.flags:
            return


def _refuse_reserved(words: Words, what: str, given: str, following: str = "") -> None:
    """Refuses a word, or line, that says what GridMap says itself, however it is spelt.

    :param following: the next word, which may be its value
    """
    found = [given]
    if words.by_line:  # a name in any spelling, also as the attribute of a job, and what follows it
        found = [re.sub(r"^\s*(\+|MY\.)?\s*(\w*).*", _name, given, flags=re.I | re.S)]
    elif given in words.longer:
        return
    elif words.flags:
        found = [*_letters(words, given)] or found
    for option in map(str.lower, words.reserved) if words.by_line else words.reserved:
        if any(_same(words, option, word, following) for word in found):
            raise ValueError(f"{what} has {given!r}, which GridMap says to {words.name} itself")
    if words.flags and re.match("-[^-]=", found[-1]):
        right = f"{found[-1][:2]} {found[-1][3:]}"
        raise ValueError(f"{what} has {given!r}; a letter's value has no '=': say {right!r}")


def _name(found: re.Match[str]) -> str:
    return found[2].lower()


def _same(words: Words, option: str, word: str, following: str) -> bool:
    """Returns whether a word says a reserved option: by its name, or shortened."""
    option, _, of_list = option.partition(" ")
    name = word.partition("=")[0].strip()
    if option.endswith("*"):
        return word.startswith(option[:-1])
    if option.startswith("--"):
        return len(name) > 2 and option.startswith(name.lower())
    letter = bool(words.flags) and len(option) == 2 and word.startswith(option)
    if of_list:
        value = (word[len(option) :] if letter else "") or following
        pairs = (pair.partition("=")[0].strip() for pair in value.split(","))
        return (letter or name == option) and of_list in pairs
    return letter or name == option
