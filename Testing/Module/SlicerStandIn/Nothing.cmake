# Writing the configuration and packaging are Slicer's; what they need is checked here.
foreach(variable HOMEPAGE CATEGORY CONTRIBUTORS DESCRIPTION ICONURL SCREENSHOTURLS DEPENDS)
  if("${EXTENSION_${variable}}" STREQUAL "")
    message(FATAL_ERROR "EXTENSION_${variable} is not set")
  endif()
endforeach()
