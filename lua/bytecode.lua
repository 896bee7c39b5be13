-- Reads a compiled function of Lua 5.4: its instructions with their lines and constants. Only what
-- checks of the company's files ask for.
local M = {}

-- The opcodes that matter; the others are passed over.
M.MOVE, M.LOADK, M.GETTABUP, M.GETFIELD, M.SETTABUP, M.SETTABLE, M.SETFIELD = 0, 3, 11, 14, 15, 16, 18
M.NEWTABLE, M.JMP, M.CALL, M.TAILCALL, M.SETLIST = 19, 56, 68, 69, 78

local NO_LINE = -128 -- in lineinfo: the line is in the table of absolute lines

local Reader = {}
Reader.__index = Reader

function Reader:byte()
  local b = self.text:byte(self.at)
  self.at = self.at + 1
  return b
end

-- Seven bits a byte, the last one marked.
function Reader:size()
  local n = 0
  repeat
    local b = self:byte()
    n = (n << 7) | (b & 0x7f)
  until b & 0x80 ~= 0
  return n
end

function Reader:bytes(n)
  local s = self.text:sub(self.at, self.at + n - 1)
  self.at = self.at + n
  return s
end

function Reader:string()
  local n = self:size()
  return n > 0 and self:bytes(n - 1) or nil
end

local CONSTANTS = {
  [0x00] = function() end,
  [0x01] = function() return false end,
  [0x11] = function() return true end,
  [0x03] = function(r) return (string.unpack("<i8", r:bytes(8))) end,
  [0x13] = function(r) return (string.unpack("<d", r:bytes(8))) end,
  [0x04] = Reader.string,
  [0x14] = Reader.string,
}

local function list(r, read)
  local n = r:size()
  local items = { n = n }
  for i = 1, n do
    items[i] = read(r)
  end
  return items
end

local read_function

-- Opcode, A, k, B, C, Bx of an instruction.
local function instruction(r)
  local i = string.unpack("<I4", r:bytes(4))
  return { op = i & 0x7f, a = (i >> 7) & 0xff, k = (i >> 15) & 1, b = (i >> 16) & 0xff,
    c = i >> 24, bx = i >> 15 }
end

local function set_lines(f, deltas, absolute)
  local line, nth = f.line, 0
  for pc = 1, f.code.n do
    local delta = deltas[pc]
    if delta == NO_LINE then
      nth = nth + 1
      line = absolute[nth]
    elseif delta then
      line = line + delta
    end
    f.code[pc].line = line
  end
end

function read_function(r)
  local f = {}
  r:string() -- the source's name
  f.line = r:size()
  r:size()
  r:bytes(3)
  f.code = list(r, instruction)
  f.constants = list(r, function()
    return CONSTANTS[r:byte()](r)
  end)
  list(r, function()
    r:bytes(3)
  end)
  f.functions = list(r, read_function)
  local deltas = list(r, function()
    return (string.unpack("<i1", r:bytes(1)))
  end)
  local absolute = list(r, function()
    r:size()
    return r:size()
  end)
  list(r, function()
    r:string()
    r:size()
    r:size()
  end)
  f.upvalues = list(r, Reader.string)
  set_lines(f, deltas, absolute)
  return f
end

--- Reads a function and those in it.
---@param chunk function
---@return table {line, code, constants, upvalues, functions}
function M.read(chunk)
  local text = string.dump(chunk)
  if text:sub(1, 6) ~= "\27Lua\x54\0" then
    error("this Lua writes a bytecode that is not 5.4's", 0)
  end
  return read_function(setmetatable({ text = text, at = 33 }, Reader))
end

--- A constant of a function, by its number in an instruction.
---@param f table
---@param number integer
function M.constant(f, number)
  return f.constants[number + 1]
end

return M
