"""A World whose workflows use the words that begin, tell and undo: call, start, emit, staff.task,
all, step with http, compensate, on_stop, continue_as."""
import os

from world import World

FILES = {
    "quote.lua": """
return workflow {
  on = "estimate_created",
  class = "transactional",
  stop_when = { "estimate_rejected" },
  on_stop = function(e, by) note("stopped by " .. by.name) end,
  run = function(e)
    local n = tostring(e.estimate.id)
    local got = all {
      function() return call("child", e).text end,
      function() sleep "1s" return step("own", function()
        local status = http.get { url = "SIMULATOR/state" }.status
        return status == http.post { url = "SIMULATOR/state", json = { by = "step" } }.status and "own" end) end }
    sms.send { to = e.customer, text = "first about " .. n }
    compensate(function() sms.send { to = e.customer, text = "undone about " .. n } end)
    start("child", e, { detached = true })
    emit("told", { customer = e.customer })
    staff.task { to = "csr", title = "look at it" }
    wait_for("estimate_approved", { timeout = "1h" })
    return got[1] .. " and " .. got[2]
  end }
""",
    "child.lua": """
return workflow {
  key = function() end,
  run = function(e)
    if e.again then return { text = "child" } end
    note "again"
    e.again = true
    continue_as(e)
  end }
""",
    "listener.lua": """
return workflow { on = "told", key = function() end, run = function(e) note "heard" end }
""",
}


class WordedWorld(World):
    def __init__(self, simulator, copy_of, **options):
        hosts = {"MOONWRIGHT_HTTP_HOSTS": "127.0.0.1:%d" % simulator.port}
        super().__init__(simulator, copy_of, **dict(options, more=dict(options.get("more") or {}, **hosts)))

    ENDED = ("select count(*) from workflow_instances where workflow = 'quote' and not exists "
             "(select from workflow_instances where finished_at is null) and (select count(*) from "
             "workflow_instances where workflow = 'listener') = 3 having count(*) > 0")

    def workflows(self):
        folder = super().workflows()
        for name, source in FILES.items():
            self.write(os.path.join(folder, name), source.replace(
                "SIMULATOR", "http://127.0.0.1:%d/sim" % self.simulator.port))
        path = os.path.join(folder, "events.lua")
        with open(path) as file:
            text = file.read()
        self.write(path, text.replace(
            "return events {", 'return events {\n  told = { of = "customer", manual = true },'))
        return folder

    def write(self, path, text):
        with open(path, "w") as file:
            file.write(text)

    def ledger(self):
        rows = self.sql(
            "select 'instance', workflow, run, state, outcome, reason, count(*) from instances "
            "group by 2, 3, 4, 5, 6 union all "
            "select 'step', i.workflow, null, s.branch, s.name, s.state, count(*) "
            "from workflow_step_executions s join workflow_instances i "
            "on i.id = s.workflow_instance_id group by 2, 4, 5, 6 union all "
            "select 'message', channel, null, state, replace(body, customer_id::text, 'N'), null, "
            "count(*) from messaging_log where state not in ('refused', 'not_sent') "
            "group by 2, 4, 5 union all "
            "select 'call', call, null, state, request, null, count(*) from outbound_log "
            "where state not in ('refused', 'not_sent') group by 2, 4, 5 union all "
            "select 'event', type, null, null, null, null, count(*) from events group by 2 union all "
            "select 'note', text, null, null, null, null, count(*) from workflow_notes "
            "group by 2 union all "
            "select 'task', title, null, null, null, null, count(*) from staff_tasks group by 2 "
            "union all select 'left', null, null, null, null, null, (select count(*) from "
            "workflow_queue) + (select count(*) from workflow_waits) + (select count(*) from "
            "workflow_subscriptions) + (select count(*) from changes) + (select count(*) from "
            "arrivals) + (select count(*) from detect_errors)")
        return sorted(rows.splitlines())
