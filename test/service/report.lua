-- A gateway for center_test.lua that only reports, and keeps what it is told to deliver.
local perilune = require "perilune"

local report = {}

local delivered = {}

function report.report(given) return perilune.call("center", "report", given) end

function report.deliver_to_all(json, buf) delivered[#delivered + 1] = { json, buf } end

function report.delivered() return delivered end

return report
