-- Commands for tests of the client.
local gateway = require "perilune.gateway"
local perilune = require "perilune"

local lab, client = {}, {}

function client.echo(_, body) return body end

function client.wait(_, body)
  perilune.sleep(body.ms)
  return { number = body.number }
end

function client.fail() error "on purpose" end

function client.push(uid, body) gateway.push(uid, "lab.pushed", body) end

function client.kick(uid, body) gateway.kick(uid, body.reason, body.text) end

return lab, client
