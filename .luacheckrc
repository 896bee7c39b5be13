-- What each kind of Lua file may see. Trusted modules (lua/) have `host`; the company's files
-- (workflows/) have the author's words; specs have busted's.
std = "lua54"
max_line_length = 120
files["lua"] = { read_globals = { "host" } }
files["lua/meta"] = { ignore = { "1", "2", "6" } }
local words = {
  "workflow", "events", "mapping", "actions", "company", "sms", "email", "ghl", "servicetitan", "staff",
  "agent", "db", "http", "sleep", "sleep_until", "moment", "date", "now", "random", "wait_for", "step",
  "note", "stop", "fail", "fresh", "sum", "start", "call", "approve", "all", "compensate", "variant",
  "audience", "start_each", "children", "emit", "continue_as", "setting", "null",
}
files["workflows"] = { std = { read_globals = words }, max_line_length = 120 }
files["workflows"].std = "lua54"
files["workflows"].read_globals = words
files["tests"] = { std = "lua54+busted", globals = { "host" } }
exclude_files = { "tests/unit/lua" } -- wrong on purpose
