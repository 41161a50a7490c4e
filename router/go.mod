module github.com/ganglion-es/ganglion/router

go 1.26.0

require github.com/ganglion-es/ganglion/proto v0.0.0

require github.com/ganglion-es/ganglion/eventstore v0.0.0 // indirect

replace github.com/ganglion-es/ganglion/proto => ../proto

replace github.com/ganglion-es/ganglion/eventstore => ../eventstore
