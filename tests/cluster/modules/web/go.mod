module serin.test/web

go 1.26.0
