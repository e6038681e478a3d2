-- The service behind the gateway of W11.

local w11_echo, client = {}, {}

function client.echo(_, body) return body end

return w11_echo, client
