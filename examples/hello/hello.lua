-- The smallest service: one command, and a line when it starts.
local hello = {}

function hello.on_start(options) print(hello.greet(options and options.name)) end

function hello.greet(name) return ("Hello, %s!"):format(name or "world") end

return hello
