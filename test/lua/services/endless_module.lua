-- A module whose text never ends.
while true do end -- luacheck: ignore
