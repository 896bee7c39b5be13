"""The control routes under /sim: faults, questions, and changes from outside.

  GET  /sim/state                 where it stands, in counts
  GET  /sim/faults                the rules in force; POST adds one (or a list), DELETE clears
  POST /sim/stop-life             nothing new happens in the company from now on
  POST /sim/end                   marks the scenario's end in the books
  POST /sim/patch                 {"entity", "id", "fields"}: changes (or makes) a row
  POST /sim/inbound               {"from", "body"}: a customer texts us
  POST /sim/mail-event            {"id", "event"}: SendGrid reports an event of a mail
  GET  /sim/row?entity=&id=       a row's versions
"""
import json

import life

JSON = ("Content-Type", "application/json")


def answer(status, body):
    return status, [JSON], json.dumps(body).encode()


def state(sim):
    opportunities = sim.ghl.opportunities.values()
    return {"business": sim.business(), "clock": sim.clock.text(), "seed": sim.seed,
            "stopped": sim.world.stopped_at is not None,
            "rows": {k: len(f.newest) for k, f in sim.world.feeds.items()},
            "messages": len(sim.twilio.order), "mails": len(sim.sendgrid.mails),
            "contacts": len(sim.ghl.contacts), "opportunities": len(opportunities),
            "won": sum(o["status"] == "won" for o in opportunities),
            "blocked": len(sim.twilio.blocked), "waiting": len(sim.tasks),
            "requests": sim.requests, "quiet_seconds": round(sim.quiet(), 2)}


def handle(sim, request, rest):
    method = request.method
    try:
        body = json.loads(request.body) if request.body else {}
        if rest == "state":
            return answer(200, state(sim))
        if rest == "faults":
            if method == "POST":
                for rule in body if isinstance(body, list) else [body]:
                    sim.add_fault(rule)
            elif method == "DELETE":
                sim.clear_faults()
            return answer(200, sim.faults.rules)
        if rest == "stop-life" and method == "POST":
            sim.stop_life()
            return answer(200, state(sim))
        if rest == "end" and method == "POST":
            sim.books.write("end")
            return answer(200, state(sim))
        if rest == "patch" and method == "POST":
            if body.get("entity") not in life.ENTITIES:
                raise ValueError("entity must be one of " + ", ".join(life.ENTITIES))
            sim.patch(body["entity"], int(body["id"]), body["fields"])
            versions = sim.world.versions(body["entity"], int(body["id"]))
            return answer(200, versions[-1].row)
        if rest == "inbound" and method == "POST":
            sim.later(0, sim.twilio.inbound, body["from"], body["body"])
            return answer(202, {})
        if rest == "mail-event" and method == "POST":
            sim.later(0, sim.sendgrid.tell, sim.sendgrid.mails[body["id"]], body["event"])
            return answer(202, {})
        if rest == "row":
            versions = sim.world.versions(request.query["entity"], int(request.query["id"]))
            return answer(200, [v.row for v in versions])
    except (ValueError, KeyError, TypeError) as e:
        return answer(400, {"error": "%s: %s" % (type(e).__name__, e)})
    return answer(404, {"error": "there is no /sim/%s for %s" % (rest, method)})
