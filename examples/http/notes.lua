-- Notes over HTTP: a list that is read, added to, streamed, and asked for by another service.
local http = require "perilune.http"
local options = require "perilune.options"

local notes = {} -- the commands that other services may call
local kept, last = {}, 0

notes.options = {
  port = { type = "integer", default = 8080, min = 0, max = 65535, meaning = "TCP port" },
}

local server

function notes.on_start(given)
  local settings = options.read(notes.options, given)
  server = assert(http.listen {
    port = settings.port,
    max_body = 10000,
    routes = { -- by name, so that a reload takes effect
      ["GET /"] = "on_page",
      ["GET /notes"] = "on_list",
      ["POST /notes"] = "on_add",
      ["GET /notes/:id"] = "on_read",
      ["DELETE /notes/:id"] = "on_remove",
    },
  })
  print(("http://%s:%d/"):format(server.host, server.port))
end

function notes.on_page(_, response)
  response:set("content-type", "text/html; charset=utf-8")
  return "<h1>Notes</h1><p>curl -d 'text=buy milk' http://127.0.0.1:8080/notes</p>"
end

-- In parts, as they are found: nothing has to hold all of it.
function notes.on_list(_, response)
  response:set("content-type", "text/plain; charset=utf-8")
  for id = 1, last do
    if kept[id] then response:write(("%d %s\n"):format(id, kept[id])) end
  end
  response:finish()
end

function notes.on_add(request, response)
  local form = request:form()
  if not form or not form.text then return 400, "a form with the field text, please" end
  last = last + 1
  kept[last] = form.text
  response:set("location", "/notes/" .. last)
  return 201, { id = last, text = form.text }
end

function notes.on_read(request)
  local text = kept[tonumber(request.params.id)]
  if not text then return 404, { error = "no such note" } end
  return { text = text }
end

function notes.on_remove(request)
  local id = tonumber(request.params.id)
  if not kept[id] then return 404, { error = "no such note" } end
  kept[id] = nil -- nothing returned: 204
end

function notes.port() return server.port end

return notes
