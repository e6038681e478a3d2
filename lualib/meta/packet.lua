---@meta perilune.packet

-- Packets of the client protocol: `local packet = require "perilune.packet"`. Native. Games use
-- perilune.protocol, which knows the messages by name; this is what it is built on.
--
-- A packet is i16 stype | i16 ctype | u32 utag | i16 proto_type | body, all little-endian;
-- proto_type is 1 for a JSON body, 2 for a BUF body. What comes from a client is hostile: reads
-- are bounded, bytes left over are refused, and nothing is allocated ahead of what has arrived.

---@class perilune.packet
local packet = {}

---A message: the name of a type, {list = description}, or fields {name, description, optional}
---in their order. Types: i8 i16 i32 i64 u8 u16 u32 u64 f32 f64 bool string bytes.
---@alias perilune.packet.Description string|table

---Encodes and decodes the bodies of one message. Numbers are exact to 2^53; an i64 or u64 beyond
---that is a string of decimal digits. Strings are UTF-8; bytes are base64 in JSON.
---@class perilune.packet.Codec
local codec = {}

---Compiles the description of a message. Raises for one that is wrong.
---@param description perilune.packet.Description
---@param name string begins the messages of errors
---@return perilune.packet.Codec codec
function packet.compile(description, name) end

---The BUF body of a value. Raises, naming the field, for what doesn't fit. A field that is
---optional and nil is written as zero, false or empty.
---@param value any
---@return string bytes
function codec:encode(value) end

---The value of a BUF body.
---@param bytes string
---@return any value nil for a body that is malformed
---@return string? message
---@return "malformed"? code
function codec:decode(bytes) end

---The JSON text of a value, fields in the order of the declaration; optional ones that are nil
---are left out. Raises as encode does.
---@param value any
---@return string text
function codec:to_json(value) end

---The value of JSON text, with exactly the declared fields: what `decode` gives for the same
---content. Others are left out, and of several with one key the last counts.
---@param text string UTF-8
---@return any value nil for one that doesn't fit
---@return string? message
---@return "malformed"|"invalid_params"|nil code "malformed": it is no JSON at all
function codec:from_json(text) end

---The four numbers a packet begins with.
---@param data string
---@return integer? stype nil for a packet shorter than its header
---@return integer|string ctype or message
---@return integer|string utag or code
---@return integer proto_type
function packet.header(data) end

---A packet of its parts. Raises for a number out of range and a body over 65,523 bytes.
---@param stype integer
---@param ctype integer
---@param utag integer
---@param proto_type integer
---@param body string
---@return string data
function packet.make(stype, ctype, utag, proto_type, body) end

---A packet of a value. Raises for a number out of range, and, naming the field, for what doesn't
---fit.
---@param fields perilune.packet.Codec? nil: no fields are declared, and the value is nil
---@param stype integer
---@param ctype integer
---@param utag integer
---@param proto_type integer 2: BUF; else JSON
---@param value any
---@param request_id integer? positive; only JSON has room for it
---@return string data
function packet.encode(fields, stype, ctype, utag, proto_type, value, request_id) end

---The value of a packet. Raises for one that is shorter than its header.
---@param fields perilune.packet.Codec? nil: no fields are declared
---@param data string
---@param takes_nothing boolean? all fields may be left out, and so may the value
---@return boolean ok
---@return any value or message
---@return integer|string|nil request_id or code: "malformed" (nobody who follows the protocol sends
---this) or "invalid_params" (JSON that doesn't fit)
---@return integer? request_id of one that doesn't fit
function packet.decode(fields, data, takes_nothing) end

---The request_id of a packet that isn't decoded otherwise.
---@param data string
---@return integer? request_id nil when it has none
function packet.request_id(data) end

---The same packet with another utag.
---@param data string
---@param utag integer
---@return string data
function packet.restamp(data, utag) end

---What follows the header.
---@param data string
---@return string bytes
function packet.body(data) end

---A JSON body around the text of a value: {"0": value, "1": request_id}.
---@param value string JSON text
---@param request_id integer? positive
---@return string body
function packet.wrap_json(value, request_id) end

---The body of a broadcast packet from a service to a gateway.
---@param data string the packet that each user gets
---@param uids integer[] at most 65,535
---@return string body
function packet.wrap_broadcast(data, uids) end

---Takes the body of a broadcast to the gateway apart.
---@param body string
---@return string? data nil for a body that is malformed
---@return integer[]|string uids or message
---@return "malformed"? code
function packet.unwrap_broadcast(body) end

---Whether a text is UTF-8 in its shortest form, without surrogates.
---@param text string
---@return boolean
function packet.is_utf8(text) end

return packet
