module github.com/ganglion-es/ganglion/gateway

go 1.26.0

replace github.com/ganglion-es/ganglion/router => ../router

replace github.com/ganglion-es/ganglion/proto => ../proto

replace github.com/ganglion-es/ganglion/eventstore => ../eventstore
