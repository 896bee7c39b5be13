"""Which template a received text was made from: templates read as patterns.

Every {placeholder} stands for any words. The templates are the company's, so the patterns are too.
"""
import os
import re


def squeeze(text):
    return " ".join(text.split())


def pattern(source):
    """A compiled pattern for a template's text; white space counts as one blank."""
    parts = re.split(r"(\{\{|\}\}|\{[^{}]*\})", squeeze(source))
    out = []
    for part in parts:
        if part == "{{":
            out.append(re.escape("{"))
        elif part == "}}":
            out.append(re.escape("}"))
        elif part.startswith("{"):
            out.append("(.*?)")
        else:
            out.append(re.escape(part))
    return re.compile("".join(out) + r"\Z", re.S)


class Templates:
    def __init__(self, folder):
        self.patterns = {}
        self.numbered = set()         # those that name their estimate's total, job or invoice
        for name in sorted(os.listdir(folder)):
            if not name.endswith(".txt"):
                continue
            with open(os.path.join(folder, name), encoding="utf-8") as f:
                source = f.read()
            if source.startswith("Subject:"):
                source = source.partition("\n")[2]
            weight = len(re.sub(r"\{[^{}]*\}", "", squeeze(source)))
            self.patterns[name[:-4]] = (weight, pattern(source))
            if re.search(r"\{(estimate\.total|job\.number|invoice\.number)\b", source):
                self.numbered.add(name[:-4])

    def name_of(self, text):
        """The template with the most fixed words that fits; None when none does."""
        text = squeeze(text)
        best = None
        for name, (weight, regex) in self.patterns.items():
            if regex.match(text) and (best is None or weight > best[0]):
                best = (weight, name)
        return best and best[1]
