"""Faults on demand: what goes wrong, for which provider, how often.

A rule is {"provider", "fault", "p" or "next", "path", "method", "retry_after", "delay", "entity"}:
p is a probability, next a number of requests (then the rule is spent). Kinds:

  429            refused, with Retry-After          500      refused before anything is done
  html           a 502 page that is not JSON        401      the credentials are refused
  slow           answered after `delay` seconds     malformed  answered with cut-off JSON
  drop_before    connection closed, nothing done    drop     done, then the connection is closed
  timeout        done, never answered               error    done, then answered with a 500
  orphans        new parents appear in their feed `delay` seconds after their children
  old_rows       a page also repeats rows in an older version
"""
import random

KINDS = ("429", "500", "html", "401", "slow", "malformed", "drop_before", "drop", "timeout",
         "error", "orphans", "old_rows")
PROVIDERS = ("servicetitan", "ghl", "twilio", "sendgrid", "any")
AFTER = ("drop", "timeout", "error")          # the request is carried out, its answer is lost


class Faults:
    def __init__(self, seed):
        self.rng = random.Random("faults %s" % seed)
        self.rules = []

    def add(self, rule):
        """Checks and adds a rule; raises ValueError with what is wrong."""
        if rule.get("provider") not in PROVIDERS:
            raise ValueError("provider must be one of " + ", ".join(PROVIDERS))
        rule["fault"] = str(rule.get("fault"))
        if rule["fault"] not in KINDS:
            raise ValueError("fault must be one of " + ", ".join(KINDS))
        if "next" not in rule and "p" not in rule:
            raise ValueError("a rule needs p (a probability) or next (a number of requests)")
        if not 0 <= float(rule.get("p", 0)) <= 1 or int(rule.get("next", 0)) < 0:
            raise ValueError("p is from 0 to 1 and next is at least 0")
        self.rules.append(rule)

    def clear(self):
        self.rules = []

    def draw(self, provider, method, path, kinds=None):
        """The rule that strikes this request, or None."""
        for rule in self.rules:
            if rule["provider"] not in (provider, "any"):
                continue
            if kinds is None and rule["fault"] in ("orphans", "old_rows"):
                continue
            if kinds is not None and rule["fault"] not in kinds:
                continue
            if rule.get("path") and rule["path"] not in path:
                continue
            if rule.get("method") and rule["method"] != method:
                continue
            if "next" in rule:
                if rule["next"] > 0:
                    rule["next"] -= 1
                    return rule
            elif self.rng.random() < rule["p"]:
                return rule
        return None
