# Where the configuration belongs, decided when vgpud is installed.

# vgpu_config_folder(VARIABLE): /etc/vgpud for a system's prefixes, where vgpud looks by itself; else PREFIX/etc/vgpud,
# so that an installation into a folder of one's own touches nothing outside it.
function(vgpu_config_folder variable)
  if(CMAKE_INSTALL_PREFIX MATCHES "^(/|/usr|/usr/local)$")
    set(${variable} /etc/vgpud PARENT_SCOPE)
  else()
    set(${variable} ${CMAKE_INSTALL_PREFIX}/etc/vgpud PARENT_SCOPE)
  endif()
endfunction()
