local echo = {}
function echo.echo(...) return ... end
function echo.spin(ms)
  local stop = os.clock() + ms / 1000
  while os.clock() < stop do end -- luacheck: ignore
end
return echo
