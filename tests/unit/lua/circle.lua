-- A module that requires itself.
return require "circle"
