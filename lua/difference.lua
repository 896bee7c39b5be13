-- The difference of texts, line by line, as `diff -u` writes it.
local M = {}

local CONTEXT = 3

local function lines_of(text)
  local lines = {}
  for line in (text:gsub("\n$", "") .. "\n"):gmatch "(.-)\n" do
    lines[#lines + 1] = line
  end
  return text == "" and {} or lines
end

-- Lengths of the longest common subsequences of what begins at (i, j).
local function common(a, b, first, last_a, last_b)
  local length = {}
  for i = last_a + 1, first, -1 do
    length[i] = {}
    for j = last_b + 1, first, -1 do
      if i > last_a or j > last_b then
        length[i][j] = 0
      elseif a[i] == b[j] then
        length[i][j] = length[i + 1][j + 1] + 1
      else
        length[i][j] = math.max(length[i + 1][j], length[i][j + 1])
      end
    end
  end
  return length
end

-- {{" " or "-" or "+", line}, …}. What is equal at both ends isn't compared; files that differ in more
-- than two thousand lines are taken as replaced.
local function edits(a, b)
  local list, first, last_a, last_b = {}, 1, #a, #b
  while first <= last_a and first <= last_b and a[first] == b[first] do
    list[#list + 1] = { " ", a[first] }
    first = first + 1
  end
  while last_a >= first and last_b >= first and a[last_a] == b[last_b] do
    last_a, last_b = last_a - 1, last_b - 1
  end
  local small = last_a - first < 2000 and last_b - first < 2000
  local length = small and common(a, b, first, last_a, last_b)
  local i, j = first, first
  while i <= last_a or j <= last_b do
    if small and i <= last_a and j <= last_b and a[i] == b[j] then
      list[#list + 1] = { " ", a[i] }
      i, j = i + 1, j + 1
    elseif i <= last_a and (j > last_b or not small or length[i + 1][j] >= length[i][j + 1]) then
      list[#list + 1] = { "-", a[i] }
      i = i + 1
    else
      list[#list + 1] = { "+", b[j] }
      j = j + 1
    end
  end
  for k = last_a + 1, #a do
    list[#list + 1] = { " ", a[k] }
  end
  return list
end

local function near(list, n)
  for k = math.max(1, n - CONTEXT), math.min(#list, n + CONTEXT) do
    if list[k][1] ~= " " then
      return true
    end
  end
  return false
end

--- The hunks of a difference; "" when the texts are equal.
---@param old string
---@param new string
---@return string
function M.of(old, new)
  local list, out, hunk = edits(lines_of(old), lines_of(new)), {}, nil
  local at_old, at_new = 1, 1
  local function close()
    if hunk then
      out[#out + 1] = ("@@ -%d,%d +%d,%d @@\n"):format(hunk.old, at_old - hunk.old, hunk.new,
        at_new - hunk.new) .. table.concat(hunk)
    end
    hunk = nil
  end
  for n, edit in ipairs(list) do
    if near(list, n) then
      hunk = hunk or { old = at_old, new = at_new }
      hunk[#hunk + 1] = edit[1] .. edit[2] .. "\n"
    else
      close()
    end
    at_old = at_old + (edit[1] ~= "+" and 1 or 0)
    at_new = at_new + (edit[1] ~= "-" and 1 or 0)
  end
  close()
  return table.concat(out)
end

--- The difference of two sets of files.
---@param old table path -> source
---@param new table
---@param from string what to call them
---@param to string
---@return string
function M.of_files(old, new, from, to)
  local paths, seen, out = {}, {}, {}
  for _, set in ipairs { old, new } do
    for path in pairs(set) do
      if not seen[path] then
        seen[path] = true
        paths[#paths + 1] = path
      end
    end
  end
  table.sort(paths)
  for _, path in ipairs(paths) do
    if old[path] ~= new[path] then
      out[#out + 1] = "--- " .. path .. " (" .. from .. ")\n+++ " .. path .. " (" .. to .. ")\n"
        .. M.of(old[path] or "", new[path] or "")
    end
  end
  return table.concat(out)
end

return M
