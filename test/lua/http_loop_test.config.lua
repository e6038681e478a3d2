return { watchdog = { report_ms = 50, interrupt_ms = 200 } }
