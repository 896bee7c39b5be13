"""A strict reader of Prometheus' text format, version 0.0.4: what isn't exactly so is an error."""
import re

NAME = r"[a-zA-Z_:][a-zA-Z0-9_:]*"
LABEL = r'([a-zA-Z_][a-zA-Z0-9_]*)="((?:[^"\\\n]|\\["\\n])*)"'
SAMPLE = re.compile(r"(%s)(?:\{(%s(?:,%s)*)\})? (\S+)" % (NAME, LABEL, LABEL))
NUMBER = re.compile(r"[+-]?(\d+(\.\d*)?|\.\d+)([eE][+-]?\d+)?|NaN|[+-]Inf")


def parse(text):
    """{family: {"type", "help", "samples": {(("label", "value"), ...): number}}}"""
    if not text.endswith("\n"):
        raise ValueError("the last line has no end")
    families, current, state = {}, None, None
    for number, line in enumerate(text[:-1].split("\n"), 1):
        def wrong(why):
            raise ValueError("line %d: %s: %r" % (number, why, line))
        if match := re.fullmatch(r"# HELP (%s) (.*)" % NAME, line):
            name = match[1]
            if name in families:
                wrong("a second HELP of the family, or its lines are not together")
            if re.search(r"\\(?![\\n])", match[2]):
                wrong("a bad escape")
            families[name] = {"help": match[2], "type": None, "samples": {}}
            current, state = name, "help"
        elif match := re.fullmatch(r"# TYPE (%s) (counter|gauge)" % NAME, line):
            if match[1] != current or state != "help":
                wrong("TYPE doesn't follow its HELP")
            if (match[2] == "counter") != current.endswith("_total"):
                wrong("a counter, and only a counter, ends with _total")
            families[current]["type"], state = match[2], "samples"
        elif match := SAMPLE.fullmatch(line):
            if match[1] != current or state != "samples":
                wrong("a sample outside its family")
            labels = tuple(re.findall(LABEL, match[2] or ""))
            if len({name for name, _ in labels}) != len(labels):
                wrong("a label twice")
            if not NUMBER.fullmatch(match[match.re.groups]):
                wrong("no number")
            value = float(match[match.re.groups])
            if families[current]["type"] == "counter" and not value >= 0:
                wrong("a counter below 0")
            labels = tuple(sorted(labels))
            if labels in families[current]["samples"]:
                wrong("the same sample twice")
            families[current]["samples"][labels] = value
        else:
            wrong("neither HELP, TYPE nor a sample")
    for name, family in families.items():
        if family["type"] is None:
            raise ValueError("%s has no TYPE" % name)
    return families


def total(families, name, **labels):
    """The sum over the samples that have these labels; None: there are none."""
    wanted = set(labels.items())
    values = [value for have, value in families[name]["samples"].items() if wanted <= set(have)]
    return sum(values) if values else None
