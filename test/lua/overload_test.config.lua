-- The node of overload_test.lua: small mailboxes.
return {
  services = {},
  mailbox = { messages = 1000, mb = 4 },
}
