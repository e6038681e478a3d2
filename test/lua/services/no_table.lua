-- Not a service: it returns no table.
return 5
