-- The wording of refusals: "did you mean", the nearest of the names that would have been right, and articles.
local M = {}

-- Edits between two words; a swap of neighbours is one.
local function distance(a, b)
  local before, last = nil, {}
  for j = 0, #b do
    last[j] = j
  end
  for i = 1, #a do
    local row = { [0] = i }
    for j = 1, #b do
      local same = a:byte(i) == b:byte(j)
      row[j] = math.min(last[j] + 1, row[j - 1] + 1, last[j - 1] + (same and 0 or 1))
      if before and i > 1 and j > 1 and a:byte(i) == b:byte(j - 1) and a:byte(i - 1) == b:byte(j) then
        row[j] = math.min(row[j], before[j - 2] + 1)
      end
    end
    before, last = last, row
  end
  return last[#b]
end

--- The name nearest to a word, or nil when none is near.
---@param word string
---@param names table a set or map whose keys are the names
---@return string|nil
function M.nearest(word, names)
  local best, least = nil, math.max(1, #word // 3) + 1
  local sorted = {}
  for name in pairs(names) do
    sorted[#sorted + 1] = name
  end
  table.sort(sorted)
  for _, name in ipairs(sorted) do
    local d = distance(word:lower(), name:lower())
    if d < least then
      best, least = name, d
    end
  end
  return best
end

--- `; did you mean "x"?`, or nothing.
---@param word string
---@param names table
---@return string
function M.hint(word, names)
  local name = M.nearest(word, names)
  return name and ('; did you mean "' .. name .. '"?') or ""
end

--- "an estimate", "a job"
---@param noun string
---@return string
function M.article(noun)
  return (noun:match "^[aeiou]" and "an " or "a ") .. noun
end

return M
