module github.com/ganglion-es/ganglion/domain

go 1.26.0

require golang.org/x/text v0.43.0 // indirect

require github.com/santhosh-tekuri/jsonschema/v6 v6.0.2
