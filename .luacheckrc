-- What each kind of Lua file may see. Trusted modules (lua/) have `host`; the company's files
-- (workflows/) have a part of plain Lua and the author's words; specs have busted's.
std = "lua54"
max_line_length = 120
exclude_files = { "tests/unit/lua" } -- wrong on purpose

local function fields(names)
  local t = {}
  for name in names:gmatch("%S+") do
    t[name] = {}
  end
  return { fields = t }
end

stds.company = { read_globals = {
  "assert", "error", "ipairs", "next", "pairs", "pcall", "require", "select", "tonumber", "tostring",
  "type",
  string = fields "byte char find format gmatch gsub len lower match rep reverse sub upper",
  table = fields "concat insert move pack remove sort unpack",
  utf8 = fields "char charpattern codepoint codes len offset",
  math = fields("abs acos asin atan ceil cos deg exp floor fmod huge log max maxinteger min mininteger "
    .. "modf pi rad sin sqrt tan tointeger type ult"),
  -- declarations, and the words of actions
  "workflow", "events", "company", "mapping", "actions", "http", "setting", "null",
  -- the words of run
  "sms", "email", "ghl", "db", "sleep", "sleep_until", "moment", "date", "now", "wait_for", "fresh", "sum",
  "step", "all", "note", "stop", "fail", "random", "start", "call", "emit", "approve", "staff", "compensate", "continue_as",
  "variant", "audience", "start_each", "children",
} }

files["lua"] = { read_globals = { "host" } }
files["lua/meta"] = { ignore = { "1", "2", "6" } } -- declares what others have, and does nothing
files["workflows"] = { std = "company" }
files["workflows/*_spec.lua"] = { std = "company+busted" }
files["tests"] = { std = "lua54+busted", globals = { "host" } }
