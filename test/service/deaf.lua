-- A service that takes packets and never answers.
local deaf = {}

return deaf, { guest_login = function() end }
