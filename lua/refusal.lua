-- Why a file of the company is refused: the file, the line of the word that is wrong, the reason.
local M = {}

-- The part of a line before its comment.
local function code_of(line)
  local quote
  local i = 1
  while i <= #line do
    local c = line:sub(i, i)
    if quote then
      if c == "\\" then
        i = i + 1
      elseif c == quote then
        quote = nil
      end
    elseif c == '"' or c == "'" then
      quote = c
    elseif line:sub(i, i + 1) == "--" then
      return line:sub(1, i - 1)
    end
    i = i + 1
  end
  return line
end

--- The first line, from a given one on, on which a word stands, or nil.
---@param source string
---@param word string
---@param from? integer
---@return integer|nil
function M.line_of(source, word, from)
  local pattern = "%f[%w_]" .. word:gsub("%p", "%%%0") .. "%f[^%w_]"
  if not word:match "^[%w_]" then
    pattern = word:gsub("%p", "%%%0")
  end
  local n = 0
  for line in string.gmatch(source .. "\n", "(.-)\n") do
    n = n + 1
    if n >= (from or 1) and code_of(line):find(pattern) then
      return n
    end
  end
end

--- Refuses a file.
---@param at table {path, source, from = line where the declaration begins}
---@param word string|nil what to look for to know the line
---@param message string
function M.raise(at, word, message)
  local line = word and M.line_of(at.source, word, at.from) or at.from or 1
  error({ refused = true, file = at.path, line = line, message = message }, 0)
end

--- "workflows/followup.lua" -> "followup.lua": how people call a file.
---@param path string
---@return string
function M.short(path)
  return (path:gsub("^workflows/", ""))
end

--- Makes a refusal of whatever was raised: our own, or an error of Lua with its place.
---@param path string
---@param err any
---@return table {file, line, message}
function M.of(path, err)
  if type(err) == "table" and err.refused then
    return { file = err.file, line = err.line, message = M.short(err.file)
      .. (err.line > 0 and ":" .. err.line or "") .. ": " .. err.message }
  end
  local text = type(err) == "table" and tostring(err.message or err.code) or tostring(err)
  local file, line, rest = text:match "^(workflows/[%w_/]+%.lua):(%d+): (.*)$"
  if not file then
    file, line, rest = path, "0", text:gsub("^%[string \"[^\"]*\"%]:", "")
  end
  local number = math.tointeger(tonumber(line))
  return { file = file, line = number,
    message = M.short(file) .. ":" .. (number > 0 and number .. ":" or "") .. " " .. rest }
end

return M
